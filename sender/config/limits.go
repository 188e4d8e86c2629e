package config

// Limits are the parts of Settings that say how much may leave how fast, beside the oldest of them
// in Settings itself.
type Limits struct {
	MaxConnectRate Rate // connections opened
}

func defaultLimits() Limits { return Limits{} }

var limitRows = []directive[Settings]{
	planned(one("max-connect-rate", rate, func(s *Settings) *Rate { return &s.MaxConnectRate })),
}
