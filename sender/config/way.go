package config

// Way are the parts of Settings about the way to the receiver and the dialogue with it.
type Way struct {
	MaxErrorsPerConnection int // recipient-level errors before the connection is dropped; 0 means no limit
}

func defaultWay() Way { return Way{} }

var wayRows = []directive[Settings]{
	planned(one("max-errors-per-connection", limit, func(s *Settings) *int { return &s.MaxErrorsPerConnection })),
}
