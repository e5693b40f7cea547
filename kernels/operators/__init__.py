"""Who looks on at a search: torch.func, autograd, compilers. Nobody else pays for them."""
