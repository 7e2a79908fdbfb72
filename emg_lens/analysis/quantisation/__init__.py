"""Quantised copies of models: weights, activations and softmax in whole numbers, with hooks and cuts as before."""
