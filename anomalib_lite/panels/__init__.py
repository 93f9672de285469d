"""Panels: photographs of sheets of several products, the crops cut from them, and a built-in renderer."""
