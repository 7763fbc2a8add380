"""The ops: contract, torch reference and dispatch; one file each."""
