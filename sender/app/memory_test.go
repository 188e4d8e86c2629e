package app

import "testing"

func TestGarbagePercent(t *testing.T) {
	for _, tc := range []struct {
		name    string
		live    uint64
		garbage uint64 // at most, bytes
		least   int
	}{
		{"nothing", 0, 48 << 20, 1200},
		{"a small queue", 10 << 20, 48 << 20, 400},
		{"a million messages", 220 << 20, 80 << 20, 35},
	} {
		got := garbagePercent(tc.live)
		if got < tc.least || tc.live*uint64(got)/100 > tc.garbage {
			t.Errorf("%s: %d %% of %d bytes is garbage, want at least %d %% and at most %d bytes", tc.name, got, tc.live, tc.least, tc.garbage)
		}
	}
}
