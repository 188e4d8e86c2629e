package resolve

import (
	"errors"

	"carom/schemas/smtpstatus"
)

// The reasons why there is no route. All but ErrUnavailable are permanent.
var (
	// ErrNotFound: the name does not exist (NXDOMAIN).
	ErrNotFound = errors.New("no such domain")
	// ErrNullMX: the domain says that it takes no mail (RFC 7505).
	ErrNullMX = errors.New("domain takes no mail (null MX)")
	// ErrNoAddress: the name exists, but no host for its mail has an address of the wanted kind.
	ErrNoAddress = errors.New("no host with an address")
	// ErrBadName: not a domain name and not an address literal.
	ErrBadName = errors.New("not a domain name")
	// ErrUnavailable: the name servers gave no usable answer, or the context ended before. It may
	// be different later.
	ErrUnavailable = errors.New("no answer from name servers")
)

// Error says why Name has no route. Err is one of the reasons above, for errors.Is.
type Error struct {
	Name string
	Err  error
}

func (e *Error) Error() string { return e.Name + ": " + e.Err.Error() }

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Err }

// Temporary reports whether the answer may be different later.
func (e *Error) Temporary() bool { return errors.Is(e.Err, ErrUnavailable) }

// Enhanced returns the enhanced status code that describes e.
func (e *Error) Enhanced() smtpstatus.Enhanced {
	switch {
	case errors.Is(e.Err, ErrNullMX):
		return smtpstatus.Enhanced{Class: 5, Subject: 1, Detail: 10} // RFC 7505 section 4.2
	case errors.Is(e.Err, ErrUnavailable):
		return smtpstatus.Enhanced{Class: 4, Subject: 4, Detail: 3} // directory server failure
	case errors.Is(e.Err, ErrNoAddress):
		return smtpstatus.Enhanced{Class: 5, Subject: 4, Detail: 4} // unable to route
	default:
		return smtpstatus.Enhanced{Class: 5, Subject: 1, Detail: 2} // bad destination system address
	}
}
