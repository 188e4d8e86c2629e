//go:build !(linux && (amd64 || arm64))

package libcrypto

import (
	"crypto/rsa"
	"fmt"
	"runtime"
)

type library struct{ version string }

func load() (*library, error) {
	return nil, fmt.Errorf("%w: not tried on %s/%s", ErrUnavailable, runtime.GOOS, runtime.GOARCH)
}

func (*library) newKey(*rsa.PrivateKey) (*pkey, error) { return nil, ErrUnavailable }

type pkey struct{}

func (*pkey) sign([]byte) ([]byte, error) { return nil, ErrUnavailable }

func (*pkey) free() {}
