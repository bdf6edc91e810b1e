"""Reports as one HTML page that opens without a network.

page     sections, tables, figures and the viewer, put together
viewer.js, style.css   what is written into the page
"""
