//go:build !race

package rig

// withRace says that the tests, and so the binary, have the race detector.
const withRace = false
