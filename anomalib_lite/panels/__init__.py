"""Panels: photographs of sheets that hold several products, the crops cut from them, and a built-in renderer."""
