"""What every eoforge service shares: settings, bootstrap, interceptor, errors, authentication, quotas, telemetry."""
