//go:build unix

package engine

import "testing"

func TestSupported(t *testing.T) {
	for version, want := range map[string]bool{
		"26.5.1.1": true, "26.10.2.1": true, "27.1.1.1": true, "26.4.9.9": false, "25.8.1.1": false, "": false, "26": false, "x.y": false,
	} {
		if got := supported(version); got != want {
			t.Errorf("supported(%q) = %v, want %v", version, got, want)
		}
	}
}
