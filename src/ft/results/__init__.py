"""Which results a recipe has, which a runs folder holds, and what may be removed of them."""
