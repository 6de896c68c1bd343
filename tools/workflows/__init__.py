"""What keeps workflows/ in order: `normalize` after an edit in the frontend, `thumbnails` after a change to see."""
