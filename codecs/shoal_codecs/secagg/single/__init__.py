"""Mode ``single`` (SecAgg+, Bell et al. 2020): secrets shared among neighbours, pure and without I/O."""
