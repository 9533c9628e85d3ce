"""What results are shown as: a table on the terminal, and one web page that needs nothing but itself."""
