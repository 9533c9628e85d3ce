"""What is told of results: a table on the terminal, and one web page that needs nothing but itself."""
