package suppression

import (
	"fmt"
	"os"
	"strings"
)

// ReadSecret reads the key of the hash from a file, a node's suppression-key-file, as a node does: what
// stands in it, without white space around it.
func ReadSecret(file string) (string, error) {
	data, err := os.ReadFile(file) //nolint:gosec // the operator names it
	if err != nil {
		return "", fmt.Errorf("key: %w", err)
	}
	secret := strings.TrimSpace(string(data))
	if secret == "" {
		return "", fmt.Errorf("%s is empty", file)
	}
	return secret, nil
}
