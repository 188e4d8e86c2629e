package config

import "time"

// ParseDuration parses an interval as the configuration language writes it: "4d12h", "300s"; a bare
// number counts seconds.
func ParseDuration(s string) (time.Duration, error) { return parseDuration(s) }
