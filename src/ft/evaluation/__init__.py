"""What is measured of models: losses, metrics of text, judges, reports, and how sure each number is."""
