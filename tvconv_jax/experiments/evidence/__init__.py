"""Where TVConv helps: eight sets of images, eight variants of a model, a learning rate for each pair."""
