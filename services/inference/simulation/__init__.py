"""Virtual time: a model of the fleet, on which the production scheduler is replayed."""
