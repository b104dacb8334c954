"""Networks: shapes in, shapes out; no I/O, no devices, no losses."""
