"""The report of a prediction: one HTML file that needs no network, and its figures as PNG and SVG."""
