package app

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
)

// makeSecret writes 32 random bytes in hexadecimal to a new file that only the node's user can
// read, and returns what it wrote.
func makeSecret(path string) ([]byte, error) {
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails
	secret := []byte(hex.EncodeToString(raw[:]))
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600) //nolint:gosec // the node's own file
	if err != nil {
		return nil, fmt.Errorf("secret: %w", err)
	}
	_, err = file.Write(secret)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return nil, fmt.Errorf("secret: %w", err)
	}
	return secret, nil
}
