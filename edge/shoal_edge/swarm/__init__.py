"""Many virtual devices in one process: the agents of real boards, with one pool of workers among them."""
