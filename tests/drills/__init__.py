"""What goes wrong once a year, done on purpose: `make drill-restore`, `drill-release`, `drill-rollback`."""
