//go:build !race

package e2e

// withRace says that the binary is built with the race detector, as these tests are.
const withRace = false
