package deliver

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"carom/sender/config"
	"carom/sender/dkim"
)

// AttrDKIMOptions is the attribute of an envelope that holds the value of the message's
// X-DKIM-Options field, where the source's process-x-dkim-options took it. It is there even if the
// field is empty.
const AttrDKIMOptions = "dkim-options"

// signing holds the keys and what was made of the dkim directives, for all queues: many of them
// have the same.
type signing struct {
	config *config.Config
	logger *slog.Logger
	files  map[string]*keyFile // by path

	mu      sync.Mutex
	keys    map[keyList]*dkim.Keys
	signers map[signerName]*dkim.Signer

	quiet atomic.Int64 // UnixNano until which no mistake is logged
}

// keyList is a list of keys of the configuration, by its place in memory: vmtas without keys of
// their own share one.
type keyList struct {
	first *config.DomainKey
	n     int
}

type signerName struct {
	keys keyList
	look string // the settings as text
}

func newSigning(c *config.Config, logger *slog.Logger) (*signing, error) {
	s := &signing{
		config: c, logger: logger, files: map[string]*keyFile{},
		keys: map[keyList]*dkim.Keys{}, signers: map[signerName]*dkim.Signer{},
	}
	for path, key := range c.KeyFiles() {
		file, err := newKeyFile(path, key, logger)
		if err != nil {
			return nil, err
		}
		s.files[path] = file
	}
	return s, nil
}

// signer signs the mail of one queue as its settings say. A nil dkim.Signer makes no signature.
type signer struct {
	*signing

	settings      config.DKIM
	firstLook     string
	first, second *dkim.Signer
}

func (s *signing) signer(vmta *config.VMTA, settings config.DKIM) (*signer, error) {
	made := &signer{signing: s, settings: settings, firstLook: look(settings.FirstDKIM)}
	var err error
	if settings.FirstDKIM.Sign != config.DKIMNo {
		if made.first, err = s.of(vmta.DomainKeys, settings.FirstDKIM, made.firstLook); err != nil {
			return nil, fmt.Errorf("dkim directives of virtual-mta %s: %w", vmta.Name, err)
		}
	}
	if settings.SecondDKIM.Sign != config.DKIMNo {
		if made.second, err = s.of(vmta.DomainKeys, settings.SecondDKIM, look(settings.SecondDKIM)); err != nil {
			return nil, fmt.Errorf("second-dkim directives of virtual-mta %s: %w", vmta.Name, err)
		}
	}
	return made, nil
}

// look returns a text that is the same for the same settings.
func look(d config.DKIMSignature) string { return fmt.Sprintf("%#v", d) }

// of returns the signer that makes signatures like d, whose look is given, with one of keys.
func (s *signing) of(keys []config.DomainKey, d config.DKIMSignature, look string) (*dkim.Signer, error) {
	list := keyList{n: len(keys)}
	if len(keys) > 0 {
		list.first = &keys[0]
	}
	name := signerName{list, look}
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.signers[name]; known != nil {
		return known, nil
	}
	if s.keys[list] == nil {
		all := make([]dkim.Key, len(keys))
		for i, k := range keys {
			all[i] = dkim.Key{Selector: k.Selector, Domain: k.Domain, Source: s.files[k.File]}
		}
		made, err := dkim.NewKeys(all)
		if err != nil {
			return nil, err
		}
		s.keys[list] = made
	}
	made, err := dkim.NewSigner(s.keys[list], dkim.Options{
		Identity: d.Identity, IdentityFallback: d.IdentityFallback, Algorithm: dkim.Algorithm(d.Algorithm),
		HeaderCanonicalization: canonicalization(d.HeadersCanon), BodyCanonicalization: canonicalization(d.BodyCanon),
		Headers: d.Headers, Closed: d.Closed,
		ExpireAfter: d.ExpireAfter, Timestamp: d.AddTimestamp, BodyLimit: d.AddBodyLimit, QueryMethod: d.QueryMethod,
	})
	if err != nil {
		return nil, err
	}
	s.signers[name] = made
	return made, nil
}

func canonicalization(c config.DKIMCanon) dkim.Canonicalization {
	if c == config.DKIMSimple {
		return dkim.Simple
	}
	return dkim.Relaxed
}

// signatures are what was made for a message.
type signatures struct {
	message *dkim.Message
	until   time.Time // they serve for further transactions
	header  []byte
	domains []string
}

// signaturesLife is how long the signatures of a message serve for its next transactions: a key
// that was replaced must be in use after a second, and t= and x= tell the time in seconds.
const signaturesLife = time.Second

// sign returns the fields to put in front of the message and the domains that sign. Mail that no
// key fits goes out unsigned, as with PowerMTA.
func (s *signer) sign(m *mail) (header []byte, domains []string) {
	if s.first == nil && s.second == nil {
		return nil, nil
	}
	made := &m.signatures
	now := time.Now()
	if now.Before(made.until) {
		return made.header, made.domains
	}
	if made.message == nil {
		made.message = dkim.NewMessage(m.content)
	}
	made.until, made.header, made.domains = now.Add(signaturesLife), nil, nil
	options, asked := m.envelope.Attrs[AttrDKIMOptions]
	if s.first != nil && (asked || s.settings.FirstDKIM.Sign == config.DKIMYes) {
		signer, request, err := s.requested(options)
		if err == nil {
			err = made.add(signer, request)
		}
		if err != nil {
			s.complain(m, err)
		}
	}
	if s.second != nil && (asked || s.settings.SecondDKIM.Sign == config.DKIMYes) {
		if err := made.add(s.second, dkim.Request{}); err != nil {
			s.complain(m, err)
		}
	}
	return made.header, made.domains
}

// requested returns what makes the first signature of a message with these X-DKIM-Options.
func (s *signer) requested(options string) (*dkim.Signer, dkim.Request, error) {
	if options == "" {
		return s.first, dkim.Request{}, nil
	}
	request, err := dkim.ParseRequest(options)
	if err != nil || request.KeyList == "" {
		return s.first, request, err
	}
	keys, ok := s.config.DomainKeyList(request.KeyList)
	if !ok {
		return nil, request, fmt.Errorf("there is no domain-key-list %q", request.KeyList)
	}
	signer, err := s.of(keys, s.settings.FirstDKIM, s.firstLook)
	return signer, request, err
}

func (made *signatures) add(signer *dkim.Signer, request dkim.Request) error {
	signature, err := signer.Sign(made.message, request)
	switch {
	case errors.Is(err, dkim.ErrNoKey), errors.Is(err, dkim.ErrNoFrom):
		return nil
	case err != nil:
		return err
	}
	made.header = append(made.header, signature.Header...)
	if !slices.Contains(made.domains, signature.Domain) {
		made.domains = append(made.domains, signature.Domain)
	}
	return nil
}

// complaintEvery is the least time between two lines in the log about messages that cannot be
// signed: a customer may send a million of them.
const complaintEvery = time.Minute

func (s *signing) complain(m *mail, err error) {
	now := time.Now()
	if until := s.quiet.Load(); now.UnixNano() >= until && s.quiet.CompareAndSwap(until, now.Add(complaintEvery).UnixNano()) {
		s.logger.Warn("message goes out without a signature, maybe others too", "message_id", m.envelope.ID.String(), "error", err)
	}
}
