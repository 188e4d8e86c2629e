package resolve

import (
	"context"
	"strings"

	"github.com/miekg/dns"
)

const (
	// maxTXT bounds the TXT records kept of one name, and maxTXTBytes each of them: a DKIM key of
	// 4096 bits takes 800 bytes.
	maxTXT      = 20
	maxTXTBytes = 4096
)

// TXT returns the TXT records of a name, each joined from its strings (RFC 7208 section 3.3, RFC
// 6376 section 3.6.2.2). The error is an *Error: ErrNotFound where there are none.
func (r *Resolver) TXT(ctx context.Context, name string) ([]string, error) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if _, ok := dns.IsDomainName(name); !ok || name == "" { // asciiName refuses the underscores of keys
		return nil, &Error{Name: name, Err: ErrBadName}
	}
	a, err := r.lookup(ctx, name, dns.TypeTXT)
	if err != nil {
		return nil, err
	}
	if len(a.texts) == 0 {
		return nil, &Error{Name: name, Err: ErrNotFound}
	}
	return a.texts, nil
}

func (a *answer) addText(parts []string) {
	if text := strings.Join(parts, ""); len(a.texts) < maxTXT && len(text) <= maxTXTBytes {
		a.texts = append(a.texts, text)
	}
}
