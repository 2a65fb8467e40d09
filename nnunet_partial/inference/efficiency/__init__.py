"""What a prediction command costs: time, host memory, GPU memory, and the area under memory over time."""
