package chat

import (
	"bytes"
	"errors"
	"math"

	journalv1 "github.com/bongsu-im/bongsu/gen/bongsu/journal/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
)

// Bounds of devices, and the refresh tokens that they hold.
const (
	MaxDevices         = 50 // an account; one more signs out the one longest unseen
	MaxDeviceNameChars = 60
	// FirstGeneration is the generation of the refresh token that a new device
	// is given at sign-up or sign-in.
	FirstGeneration uint32 = 1
	// RefreshGraceMs is how long after a rotation the token before is answered
	// with the same new one: two tabs of one browser may refresh at once.
	RefreshGraceMs int64 = 2 * 60 * 1000
)

func checkDevice(device []byte, name string) error {
	if _, err := parse(id.Device, device, "deviceId"); err != nil {
		return err
	}
	if !plainLine(name, MaxDeviceNameChars) {
		return refuse(BadDeviceName, "deviceName")
	}
	return nil
}

func deviceAdded(user id.ID, device []byte, name string) *journalv1.Event {
	return &journalv1.Event{Kind: &journalv1.Event_DeviceAdded{DeviceAdded: &journalv1.DeviceAdded{
		UserId: user.Bytes(), DeviceId: device, Name: name,
	}}}
}

func deviceRevoked(user, device id.ID, cause journalv1.DeviceRevoked_Cause) *journalv1.Event {
	return &journalv1.Event{Kind: &journalv1.Event_DeviceRevoked{DeviceRevoked: &journalv1.DeviceRevoked{
		UserId: user.Bytes(), DeviceId: device.Bytes(), Cause: cause,
	}}}
}

func decideAddDevice(r Reader, actor []byte, c *nodev1.AddDevice) (Decision, error) {
	user, err := ownAccount(actor, c.GetUserId())
	if err != nil {
		return Decision{}, err
	}
	if err := checkDevice(c.GetDeviceId(), c.GetDeviceName()); err != nil {
		return Decision{}, err
	}
	a, err := readAccount(r, user)
	if err != nil {
		return Decision{}, err
	}
	if a == nil || a.GetPasswordHash() == "" || a.GetPasswordHash() != c.GetPasswordHash() {
		return Decision{}, refuse(BadCredentials, "")
	}
	reply := userReply(edgeUser(user, a))
	device := id.ID(c.GetDeviceId())
	if d, err := readDevice(r, user, device); err != nil || d != nil {
		return Decision{Reply: reply}, err // added before, the answer was lost
	}
	d := Decision{Reply: reply}
	if a.GetDeviceCount() >= MaxDevices {
		oldest, err := longestUnseen(r, user)
		if err != nil {
			return Decision{}, err
		}
		d.Events = append(d.Events, deviceRevoked(user, oldest, journalv1.DeviceRevoked_CAUSE_TOO_MANY))
	}
	d.Events = append(d.Events, deviceAdded(user, c.GetDeviceId(), c.GetDeviceName()))
	return d, nil
}

// devicesOf lists the devices of an account in the order of their IDs: at most
// MaxDevices, as a revoked one is removed.
func devicesOf(r Reader, user id.ID, fn func(device id.ID, d *journalv1.DeviceState)) error {
	return scanPrefix(r, ownerKey(kindDevice, user), func(k, v []byte) error {
		device, err := keyID(id.Device, k)
		if err != nil {
			return err
		}
		d := &journalv1.DeviceState{}
		if err := decode(k, v, d); err != nil {
			return err
		}
		fn(device, d)
		return nil
	})
}

func longestUnseen(r Reader, user id.ID) (oldest id.ID, err error) {
	seen := int64(math.MaxInt64)
	err = devicesOf(r, user, func(device id.ID, d *journalv1.DeviceState) {
		if d.GetLastSeenMs() < seen || oldest.IsZero() {
			oldest, seen = device, d.GetLastSeenMs()
		}
	})
	if err == nil && oldest.IsZero() {
		err = damaged(accountKey(user), errors.New("counts devices, but has none"))
	}
	return oldest, err
}

// liveDevice reads the device that presents a refresh token.
func liveDevice(r Reader, actor, user, device []byte) (u, d id.ID, s *journalv1.DeviceState, err error) {
	if u, err = ownAccount(actor, user); err != nil {
		return
	}
	if d, err = parse(id.Device, device, "deviceId"); err != nil {
		return
	}
	if s, err = readDevice(r, u, d); err != nil {
		return
	}
	if s == nil || s.GetRevoked() {
		err = refuse(DeviceIsRevoked, "")
	}
	return
}

// decideRotateRefresh judges a refresh token of generation g. The gateway has
// verified its signature: we did hand it out.
//
//	g = current        → current+1.
//	g = current−1      → current again, if it was handed out within the grace or
//	                     was never presented since: its answer got lost, and an
//	                     outage never signs anyone out (invariant 11), however
//	                     often the answer gets lost. Otherwise both have been
//	                     used: someone else has a copy, the device is signed out.
//	g < current−1      → likewise signed out.
//	g > current        → we forgot the rotation (a lost tail): g+1.
func decideRotateRefresh(r Reader, env Env, actor []byte, c *nodev1.RotateRefresh) (Decision, error) {
	user, device, d, err := liveDevice(r, actor, c.GetUserId(), c.GetDeviceId())
	if err != nil {
		return Decision{}, err
	}
	presented, current := c.GetGeneration(), d.GetGeneration()
	switch {
	case presented == 0 || presented == math.MaxUint32:
		return Decision{}, refuse(BadCommand, "refreshToken")
	case presented >= current:
		return Decision{
			Reply: refreshReply(presented + 1),
			Events: []*journalv1.Event{{Kind: &journalv1.Event_RefreshRotated{RefreshRotated: &journalv1.RefreshRotated{
				UserId: user.Bytes(), DeviceId: device.Bytes(), Generation: presented + 1,
			}}}},
		}, nil
	case presented == current-1 && (!d.GetConfirmed() || env.NowMs-d.GetRotatedMs() <= RefreshGraceMs):
		return Decision{Reply: refreshReply(current)}, nil
	}
	return Decision{
		Reply:  refusalReply(refuse(RefreshReused, "refreshToken")),
		Events: []*journalv1.Event{deviceRevoked(user, device, journalv1.DeviceRevoked_CAUSE_REFRESH_REUSED)},
	}, nil
}

func refreshReply(generation uint32) *nodev1.Reply {
	return &nodev1.Reply{Kind: &nodev1.Reply_Refresh{Refresh: &nodev1.Refresh{Generation: generation}}}
}

// decideConfirmRefresh notes that the newest token, or an access token made
// with it, was presented. One of an older generation says nothing new.
func decideConfirmRefresh(r Reader, actor []byte, c *nodev1.ConfirmRefresh) (Decision, error) {
	user, device, d, err := liveDevice(r, actor, c.GetUserId(), c.GetDeviceId())
	if err != nil {
		return Decision{}, err
	}
	if d.GetConfirmed() || c.GetGeneration() != d.GetGeneration() {
		return Decision{}, nil
	}
	return Decision{Events: []*journalv1.Event{{Kind: &journalv1.Event_RefreshConfirmed{RefreshConfirmed: &journalv1.RefreshConfirmed{
		UserId: user.Bytes(), DeviceId: device.Bytes(), Generation: c.GetGeneration(),
	}}}}}, nil
}

// decideRevokeDevice signs out one device or all. A device that is not (or no
// longer) there is signed out already: the answer lists only what this command
// revoked, so that nobody can have another's device named as revoked.
func decideRevokeDevice(r Reader, actor []byte, c *nodev1.RevokeDevice) (Decision, error) {
	user, err := ownAccount(actor, c.GetUserId())
	if err != nil {
		return Decision{}, err
	}
	var devices []id.ID
	if c.GetAll() {
		if len(c.GetDeviceId()) > 0 {
			return Decision{}, refuse(BadCommand, "deviceId")
		}
		err = devicesOf(r, user, func(device id.ID, _ *journalv1.DeviceState) { devices = append(devices, device) })
	} else {
		devices, err = knownDevice(r, user, c.GetDeviceId())
	}
	if err != nil {
		return Decision{}, err
	}
	d, revoked := Decision{}, &nodev1.RevokedDevices{}
	for _, device := range devices {
		d.Events = append(d.Events, deviceRevoked(user, device, journalv1.DeviceRevoked_CAUSE_SIGNED_OUT))
		revoked.DeviceIds = append(revoked.DeviceIds, device.Bytes())
	}
	d.Reply = &nodev1.Reply{Kind: &nodev1.Reply_Revoked{Revoked: revoked}}
	return d, nil
}

func knownDevice(r Reader, user id.ID, raw []byte) ([]id.ID, error) {
	device, err := parse(id.Device, raw, "deviceId")
	if err != nil {
		return nil, err
	}
	d, err := readDevice(r, user, device)
	if err != nil || d == nil {
		return nil, err
	}
	return []id.ID{device}, nil
}

func applyDeviceAdded(tx Tx, m Meta, ev *journalv1.DeviceAdded) ([]*nodev1.FeedItem, error) {
	user, a, err := eventAccount(tx, ev.GetUserId())
	if err != nil {
		return nil, err
	}
	device, err := parseEvent(id.Device, ev.GetDeviceId())
	if err != nil {
		return nil, err
	}
	if old, err := readDevice(tx, user, device); err != nil || old != nil {
		return nil, orBad(err, "adds device %s again", device)
	}
	d := &journalv1.DeviceState{
		DeviceId: device.Bytes(), Name: ev.GetName(), CreatedMs: m.TimeMs, LastSeenMs: m.TimeMs,
		Generation: FirstGeneration, RotatedMs: m.TimeMs,
	}
	if err := write(tx, deviceKey(user, device), d); err != nil {
		return nil, err
	}
	a.DeviceCount++
	return []*nodev1.FeedItem{peopleChanged(user)}, write(tx, accountKey(user), a)
}

// eventDevice reads the device that an event is about; it must be there.
func eventDevice(r Reader, rawUser, rawDevice []byte) (user, device id.ID, d *journalv1.DeviceState, err error) {
	if user, err = parseEvent(id.User, rawUser); err != nil {
		return
	}
	if device, err = parseEvent(id.Device, rawDevice); err != nil {
		return
	}
	if d, err = readDevice(r, user, device); err != nil {
		return
	}
	if d == nil {
		err = badEvent("for device %s, which is not there", device)
	} else if !bytes.Equal(d.GetDeviceId(), rawDevice) {
		err = damaged(deviceKey(user, device), errors.New("another device's state"))
	}
	return
}

// applyDeviceRevoked removes the device: deletion is real, and what is not
// there cannot be used.
func applyDeviceRevoked(tx Tx, ev *journalv1.DeviceRevoked) ([]*nodev1.FeedItem, error) {
	user, device, _, err := eventDevice(tx, ev.GetUserId(), ev.GetDeviceId())
	if err != nil {
		return nil, err
	}
	_, a, err := eventAccount(tx, ev.GetUserId())
	if err != nil {
		return nil, err
	}
	if a.DeviceCount == 0 {
		return nil, damaged(accountKey(user), errors.New("counts no devices, but has one"))
	}
	a.DeviceCount--
	if err := remove(tx, deviceKey(user, device)); err != nil {
		return nil, err
	}
	item := peopleChanged(user)
	item.RevokedDeviceIds = [][]byte{device.Bytes()}
	return []*nodev1.FeedItem{item}, write(tx, accountKey(user), a)
}

func applyRefreshRotated(tx Tx, m Meta, ev *journalv1.RefreshRotated) error {
	user, device, d, err := eventDevice(tx, ev.GetUserId(), ev.GetDeviceId())
	if err != nil {
		return err
	}
	if ev.GetGeneration() <= d.GetGeneration() {
		return badEvent("rotates to generation %d, which is not above %d", ev.GetGeneration(), d.GetGeneration())
	}
	d.Generation, d.RotatedMs, d.Confirmed, d.LastSeenMs = ev.GetGeneration(), m.TimeMs, false, m.TimeMs
	return write(tx, deviceKey(user, device), d)
}

func applyRefreshConfirmed(tx Tx, m Meta, ev *journalv1.RefreshConfirmed) error {
	user, device, d, err := eventDevice(tx, ev.GetUserId(), ev.GetDeviceId())
	if err != nil {
		return err
	}
	if ev.GetGeneration() != d.GetGeneration() {
		return badEvent("confirms generation %d of %d", ev.GetGeneration(), d.GetGeneration())
	}
	d.Confirmed, d.LastSeenMs = true, m.TimeMs
	return write(tx, deviceKey(user, device), d)
}
