"""DML-S2R: semi-supervised regression by deep metric learning; see README.md."""
