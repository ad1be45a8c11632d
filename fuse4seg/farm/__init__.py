"""Cases shared out among workers: processes of this machine, or of a cluster."""
