"""Will a recipe fit a GPU? Estimated before anything is loaded or downloaded, for every stage and moment.

gpus, known   GPUs and well-known models
shapes        what a model is made of, counted on the meta device
weights       bytes that stay; activations: bytes that come and go; sharding: what of it one of several GPUs holds
kinds         which of these a stage has in memory while it trains, and when; answering: while it answers
advice        changes that make a stage fit, each tried by recomputing
speed         how long, by what earlier runs did
table         the answer as text or JSON; probe measures one step on the GPU at hand
"""
