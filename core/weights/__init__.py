"""Files of weights, judged by what they say of themselves before anything of them is in memory."""
