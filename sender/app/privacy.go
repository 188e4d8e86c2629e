package app

import (
	"carom/schemas/event"
	"carom/schemas/service"
	"carom/sender/config"
)

// Hide returns what privacy-policy of the event log does to an event, nil if recipients are shown. It is
// safe for concurrent use.
func Hide(c *config.Config) (func(*event.Event), error) {
	policy, err := privacyPolicy(c.EventLog.Privacy)
	if err != nil {
		return nil, &service.ConfigError{Err: err}
	}
	if policy == nil {
		return nil, nil //nolint:nilnil // nothing is hidden
	}
	return policy.Hide, nil
}
