package config

import "strings"

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
	DKIMSign DKIMSign
}

func defaultDKIM() DKIM { return DKIM{DKIMSign: DKIMNo} }

var dkimRows = []directive[Settings]{
	one("dkim-sign", dkimSign, func(s *Settings) *DKIMSign { return &s.DKIMSign }),
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
