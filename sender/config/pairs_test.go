package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"sync"
	"time"
)

// testPairs returns a certificate with and without its private key, and with an encrypted one.
var testPairs = sync.OnceValue(func() memory {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mx.test"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	sec1, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		panic(err)
	}
	locked, err := x509.EncryptPEMBlock(rand.Reader, "EC PRIVATE KEY", sec1, []byte("secret"), x509.PEMCipherAES256) //nolint:staticcheck // the form that PASSWORD is for
	if err != nil {
		panic(err)
	}
	certificate := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return memory{
		"/etc/carom/keys/cert.pem":   certificate,
		"/etc/carom/keys/pair.pem":   certificate + string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1})),
		"/etc/carom/keys/locked.pem": certificate + string(pem.EncodeToMemory(locked)),
	}
})
