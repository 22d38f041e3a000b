"""AutoAttack over a data set: an ensemble of attacks, run from the host."""
