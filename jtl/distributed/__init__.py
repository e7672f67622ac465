"""Many devices and many processes: the mesh, sharding, collectives."""
