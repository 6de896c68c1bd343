"""The written story: its script, its plan, its styles, and the comic page that shows it."""
