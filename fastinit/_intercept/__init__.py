"""Code one does not own: what calls torch is made to call fastinit, at once or later."""
