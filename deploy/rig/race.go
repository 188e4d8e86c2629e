//go:build race

package rig

// WithRace says that the tests, and so the binary, have the race detector.
const WithRace = true
