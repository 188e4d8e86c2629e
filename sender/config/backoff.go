package config

// Backoff are the parts of Settings about queue modes and retries.
type Backoff struct{}

func defaultBackoff() Backoff { return Backoff{} }

var backoffRows = []directive[Settings]{}
