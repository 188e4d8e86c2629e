package deliver

import (
	"bytes"
	"errors"
	"fmt"

	"carom/sender/config"
	"carom/sender/dkim"
)

// signer signs the mail of one queue as its dkim-sign says.
type signer struct {
	mode   config.DKIMSign
	signer *dkim.Signer
}

func newSigner(vmta *config.VMTA, settings config.Settings) (signer, error) {
	if settings.DKIMSign == config.DKIMNo {
		return signer{mode: config.DKIMNo}, nil
	}
	keys := make([]dkim.Key, len(vmta.DomainKeys))
	for i, k := range vmta.DomainKeys {
		keys[i] = dkim.Key{Selector: k.Selector, Domain: k.Domain, Signer: k.Signer}
	}
	s, err := dkim.New(keys)
	if err != nil {
		return signer{}, fmt.Errorf("domain-key of virtual-mta %s: %w", vmta.Name, err)
	}
	return signer{settings.DKIMSign, s}, nil
}

// sign returns the field to put in front of the message and the domains that sign. Mail that no
// key fits goes out unsigned, as with PowerMTA.
func (s signer) sign(content []byte) (header []byte, domains []string, err error) {
	if s.mode == config.DKIMNo || s.mode == config.DKIMIfAsked && !asks(content) {
		return nil, nil, nil
	}
	signature, err := s.signer.Sign(content)
	switch {
	case errors.Is(err, dkim.ErrNoKey), errors.Is(err, dkim.ErrNoFrom):
		return nil, nil, nil
	case err != nil:
		return nil, nil, err
	}
	return signature.Header, []string{signature.Domain}, nil
}

// asks reports whether the header has an X-DKIM-Options field.
func asks(content []byte) bool {
	header, _, _ := bytes.Cut(content, []byte("\r\n\r\n"))
	return bytes.Contains(bytes.ToLower(header), []byte("\nx-dkim-options:"))
}
