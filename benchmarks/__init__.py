"""Programs that measure: speed, and real input; each prints a table or prepares a data folder to train on."""
