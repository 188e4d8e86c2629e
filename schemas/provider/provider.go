// Package provider tells who decides about mail from the MX hosts of its domain: one mailbox
// provider takes mail for many domains, and treats a source the same for all of them.
//
// It is data and a look-up. Everything is safe for concurrent use.
package provider

import (
	"strings"

	"golang.org/x/net/publicsuffix"
)

// mxSuffixes names the provider behind an MX host. The longest suffix wins. Each is the host name
// that the provider publishes in its own MX records.
var mxSuffixes = map[string]string{
	"google.com":                  "google",
	"googlemail.com":              "google",
	"olc.protection.outlook.com":  "outlook",   // consumer: outlook.com, hotmail.com, live.com, msn.com
	"mail.protection.outlook.com": "office365", // Microsoft 365 tenants
	"mx.microsoft":                "office365", // Microsoft 365 tenants with DNSSEC and DANE
	"yahoodns.net":                "yahoo",     // Yahoo, AOL, and AT&T domains
	"icloud.com":                  "apple",
	"apple.com":                   "apple",
	"comcast.net":                 "comcast",
	"orange.fr":                   "orange",
	"wanadoo.fr":                  "orange",
	"gmx.net":                     "gmx",
	"web.de":                      "gmx",
	"kundenserver.de":             "ionos",
	"t-online.de":                 "t-online",
	"libero.it":                   "libero",
	"mail.ru":                     "mailru",
	"yandex.ru":                   "yandex",
	"yandex.net":                  "yandex",
	"qq.com":                      "qq",
	"163.com":                     "netease",
	"netease.com":                 "netease",
	"zoho.com":                    "zoho",
	"zoho.eu":                     "zoho",
	"protonmail.ch":               "proton",
	"messagingengine.com":         "fastmail",
	"pphosted.com":                "proofpoint",
	"ppe-hosted.com":              "proofpoint",
	"mimecast.com":                "mimecast",
	"barracudanetworks.com":       "barracuda",
	"iphmx.com":                   "cisco",
	"messagelabs.com":             "symantec",
	"secureserver.net":            "godaddy",
	"ovh.net":                     "ovh",
	"free.fr":                     "free",
	"sfr.fr":                      "sfr",
	"laposte.net":                 "laposte",
	"charter.net":                 "charter",
	"cox.net":                     "cox",
	"seznam.cz":                   "seznam",
	"wp.pl":                       "wp",
	"onet.pl":                     "onet",
}

// OfMX returns the provider that runs the MX host: by the table of well-known suffixes,
// else the registrable domain of the host (public suffix list), else the host itself.
func OfMX(host string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	for suffix := host; ; {
		if provider, ok := mxSuffixes[suffix]; ok {
			return provider
		}
		_, rest, found := strings.Cut(suffix, ".")
		if !found {
			break
		}
		suffix = rest
	}
	if domain, err := publicsuffix.EffectiveTLDPlusOne(host); err == nil {
		return domain
	}
	return host
}
