"""What every trigger shares: the contract, errors, settings, storage, history and the model registry."""
