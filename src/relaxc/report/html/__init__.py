"""Reports as one HTML file that needs neither a network nor JavaScript: see page.py."""
