package config

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// DKIMSign is the value of dkim-sign.
type DKIMSign string

// The values of dkim-sign.
const (
	DKIMNo  DKIMSign = "no"
	DKIMYes DKIMSign = "yes"
	// DKIMIfAsked signs only mail that asks for it in an X-DKIM-Options header.
	DKIMIfAsked DKIMSign = "if-x-dkim-options-present"
)

// DKIM are the parts of Settings about signatures.
type DKIM struct {
	FirstDKIM  DKIMSignature // dkim-…
	SecondDKIM DKIMSignature // second-dkim-…
}

// DKIMSignature says whether a message gets a signature and what it looks like.
type DKIMSignature struct {
	Sign             DKIMSign
	Identity         string        // an address, @domain, sender-or-from or strict-from
	IdentityFallback string        // @domain, or empty
	Algorithm        DKIMAlgorithm // of the keys that sign; empty: any
	BodyCanon        DKIMCanon
	HeadersCanon     DKIMCanon
	Headers          DKIMHeaders // names and /patterns/ beside the built-in list
	Closed           DKIMHeaders // names of dkim-disallow-adding-headers
	AddBodyLimit     bool
	AddTimestamp     bool
	ExpireAfter      time.Duration // 0 means never
	QueryMethod      string
}

// DKIMAlgorithm is the value of dkim-algorithm.
type DKIMAlgorithm string

// The algorithms; the second is carom's own.
const (
	DKIMRSASHA256     DKIMAlgorithm = "rsa-sha256"
	DKIMEd25519SHA256 DKIMAlgorithm = "ed25519-sha256"
)

// DKIMCanon is the value of dkim-body-canon and dkim-headers-canon.
type DKIMCanon string

// The canonicalizations of RFC 6376 section 3.4.
const (
	DKIMRelaxed DKIMCanon = "relaxed"
	DKIMSimple  DKIMCanon = "simple"
)

// DKIMHeaders are names of header fields, and /patterns/ of such names with their slashes.
type DKIMHeaders []string

// String returns the list as it is written.
func (h DKIMHeaders) String() string { return strings.Join(h, ",") }

func defaultDKIM() DKIM {
	s := DKIMSignature{Sign: DKIMNo, Identity: "sender-or-from", BodyCanon: DKIMRelaxed, HeadersCanon: DKIMRelaxed}
	return DKIM{s, s}
}

var dkimRows = slices.Concat(
	signatureRows("dkim-", func(s *Settings) *DKIMSignature { return &s.FirstDKIM }),
	signatureRows("second-dkim-", func(s *Settings) *DKIMSignature { return &s.SecondDKIM }),
)

func signatureRows(prefix string, at func(*Settings) *DKIMSignature) []directive[Settings] {
	return []directive[Settings]{
		one(prefix+"sign", dkimSign, func(s *Settings) *DKIMSign { return &at(s).Sign }),
		one(prefix+"identity", dkimIdentity, func(s *Settings) *string { return &at(s).Identity }),
		one(prefix+"identity-fallback", clearable(dkimDomain), func(s *Settings) *string { return &at(s).IdentityFallback }),
		one(prefix+"algorithm", clearable(dkimAlgorithm(prefix)), func(s *Settings) *DKIMAlgorithm { return &at(s).Algorithm }),
		one(prefix+"body-canon", dkimCanon, func(s *Settings) *DKIMCanon { return &at(s).BodyCanon }),
		one(prefix+"headers-canon", dkimCanon, func(s *Settings) *DKIMCanon { return &at(s).HeadersCanon }),
		one(prefix+"headers", dkimHeaders, func(s *Settings) *DKIMHeaders { return &at(s).Headers }),
		one(prefix+"disallow-adding-headers", dkimClosed, func(s *Settings) *DKIMHeaders { return &at(s).Closed }),
		one(prefix+"add-body-limit", dkimBodyLimit(prefix), func(s *Settings) *bool { return &at(s).AddBodyLimit }),
		one(prefix+"add-timestamp", boolean, func(s *Settings) *bool { return &at(s).AddTimestamp }),
		orZero("never", one(prefix+"expire-after", neverOr(positiveInterval), func(s *Settings) *time.Duration { return &at(s).ExpireAfter })),
		one(prefix+"query-method", clearable(dkimQueryMethod), func(s *Settings) *string { return &at(s).QueryMethod }),
	}
}

func dkimSign(v *value) (DKIMSign, error) {
	if strings.EqualFold(v.text, string(DKIMIfAsked)) {
		return DKIMIfAsked, nil
	}
	yes, err := boolean(v)
	if yes {
		return DKIMYes, err
	}
	return DKIMNo, err
}

const wantIdentity = "want sender-or-from, strict-from, an address or @domain"

var dkimIdentity = scalar(wantIdentity, func(s string) (string, error) {
	if word := strings.ToLower(s); word == "sender-or-from" || word == "strict-from" {
		return word, nil
	}
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return "", fmt.Errorf("bad identity %q; %s", s, wantIdentity)
	}
	domain, err := checkHostName(s[at+1:])
	return s[:at+1] + domain, err
})

const wantDKIMDomain = "want @domain, for example @example.com"

var dkimDomain = scalar(wantDKIMDomain, func(s string) (string, error) {
	name, ok := strings.CutPrefix(s, "@")
	if !ok {
		return "", fmt.Errorf("bad identity %q; %s", s, wantDKIMDomain)
	}
	domain, err := checkHostName(name)
	return "@" + domain, err
})

// dkimAlgorithm takes rsa-sha1 too, which PowerMTA still has and nobody may use any more.
func dkimAlgorithm(prefix string) parser[DKIMAlgorithm] {
	const want = "want rsa-sha256 or ed25519-sha256"
	return func(v *value) (DKIMAlgorithm, error) {
		return scalar(want, func(s string) (DKIMAlgorithm, error) {
			switch a := DKIMAlgorithm(strings.ToLower(s)); a {
			case DKIMRSASHA256, DKIMEd25519SHA256:
				return a, nil
			case "rsa-sha1":
				v.warnOnce(v.pos, prefix+"algorithm", "rsa-sha1 is refused by receivers (RFC 8301); carom signs with rsa-sha256")
				return DKIMRSASHA256, nil
			}
			return "", fmt.Errorf("bad value %q; %s", s, want)
		})(v)
	}
}

var dkimCanon = scalar("want relaxed or simple", func(s string) (DKIMCanon, error) {
	switch c := DKIMCanon(strings.ToLower(s)); c {
	case DKIMRelaxed, DKIMSimple:
		return c, nil
	}
	return "", fmt.Errorf("bad value %q; want relaxed or simple", s)
})

func dkimBodyLimit(prefix string) parser[bool] {
	return func(v *value) (bool, error) {
		yes, err := boolean(v)
		if yes {
			v.warnOnce(v.pos, prefix+"add-body-limit", "l= lets anybody add to the end of a signed message, and some receivers refuse it (RFC 6376 8.2)")
		}
		return yes, err
	}
}

var dkimQueryMethod = scalar("want a method such as dns/txt", func(s string) (string, error) {
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == ';' || r == '=' }) {
		return "", fmt.Errorf(`bad value %q; a query method holds no blanks, ";" or "="`, s)
	}
	return s, nil
})

const wantHeaders = `want names of headers and /patterns/, separated by commas or blanks, or ""`

// between are the bytes between two items of a list of headers: quotes around the list, or around a
// part of it, do not count.
const between = ", \t\""

// dkimHeaders parses a list of names and patterns.
func dkimHeaders(v *value) (DKIMHeaders, error) {
	if v.text == "" {
		return nil, errors.New("value missing; " + wantHeaders)
	}
	var all DKIMHeaders
	for s := strings.TrimLeft(v.text, between); s != ""; s = strings.TrimLeft(s, between) {
		item, rest, err := cutHeader(s)
		if err != nil {
			return nil, err
		}
		all = append(all, item)
		s = rest
	}
	return all, nil
}

// cutHeader returns the name or pattern that s starts with, and what follows it.
func cutHeader(s string) (item, rest string, err error) {
	if s[0] != '/' {
		end := strings.IndexAny(s, between)
		if end < 0 {
			end = len(s)
		}
		item = strings.TrimSuffix(s[:end], ":")
		if item == "" || strings.ContainsFunc(item, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' || r == ';' }) {
			return "", "", fmt.Errorf("bad header name %q; %s", s[:end], wantHeaders)
		}
		return item, s[end:], nil
	}
	end := headerPatternEnd(s)
	if end < 0 {
		return "", "", fmt.Errorf("the pattern %s has no second /", s)
	}
	item = s[:end]
	if _, err := regexp.Compile(item[1 : end-1]); err != nil {
		return "", "", fmt.Errorf("bad pattern %s: %w", item, err)
	}
	return item, s[end:], nil
}

// headerPatternEnd returns the index behind the slash that closes the pattern at the start of s,
// -1 without one. The end of the item follows it.
func headerPatternEnd(s string) int {
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\':
			i++
		case s[i] == '/' && (i+1 == len(s) || strings.IndexByte(between, s[i+1]) >= 0):
			return i + 1
		}
	}
	return -1
}

func dkimClosed(v *value) (DKIMHeaders, error) {
	all, err := dkimHeaders(v)
	for _, name := range all {
		if name[0] == '/' {
			return nil, fmt.Errorf("bad header name %q; patterns do not count here", name)
		}
	}
	return all, err
}
