package gateway

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"time"

	"github.com/bongsu-im/bongsu/gateway/auth"
	edgev1 "github.com/bongsu-im/bongsu/gen/bongsu/edge/v1"
	nodev1 "github.com/bongsu-im/bongsu/gen/bongsu/node/v1"
	"github.com/bongsu-im/bongsu/internal/id"
	"github.com/bongsu-im/bongsu/overload"
)

// firstGeneration is the generation of a new device's refresh token.
const firstGeneration = 1

// caller is who asks, from a verified access token; zero on SignUp, SignIn and
// Refresh.
type caller struct{ user, device id.ID }

// session tokens for a device, as SignUp, SignIn and Refresh return them.
func (g *Gateway) tokens(user, device id.ID, generation uint32) *edgev1.Session {
	expires := g.now().Add(auth.Life)
	return &edgev1.Session{
		UserId:       user.String(),
		DeviceId:     device.String(),
		AccessToken:  g.keys.SignAccess(auth.Access{User: user, Device: device, Generation: generation, Expires: expires}),
		RefreshToken: g.keys.SignRefresh(auth.Refresh{User: user, Device: device, Generation: generation}),
		ExpiresAt:    expires.UnixMilli(),
	}
}

var loginSeed = maphash.MakeSeed()

// hashSlot runs work, which costs as much as a password hash, when a slot is free.
func (g *Gateway) hashSlot(ctx context.Context, login string, work func() error) error {
	began := time.Now()
	if err := g.hashing.Acquire(ctx, overload.Resume, maphash.String(loginSeed, login)); err != nil {
		return err
	}
	defer g.hashing.Release()
	g.metrics.hashWait.Observe(time.Since(began).Seconds())
	return work()
}

func (g *Gateway) signUp(ctx context.Context, _ caller, r *edgev1.SignUpRequest) (*edgev1.Session, error) {
	login, err := login("login", r.GetLogin())
	if err != nil {
		return nil, err
	}
	password, err := newPassword("password", r.GetPassword())
	if err != nil {
		return nil, err
	}
	displayName, err := shortText("displayName", "display name", r.GetDisplayName(), maxDisplayName)
	if err != nil {
		return nil, err
	}
	if displayName == "" {
		displayName = login
	}
	deviceName, err := shortText("deviceName", "device name", r.GetDeviceName(), maxDeviceName)
	if err != nil {
		return nil, err
	}
	// A taken login is told before a hash is computed for it.
	if taken, err := g.credential(ctx, login); err != nil {
		return nil, err
	} else if taken != nil {
		return nil, loginTaken()
	}
	var hash string
	err = g.hashSlot(ctx, login, func() (err error) {
		hash, err = auth.HashPassword(password, g.cfg.Password, &g.random)
		return err
	})
	if err != nil {
		return nil, err
	}
	partition := id.LoginPartition(login)
	user, err := g.newID(id.User, partition)
	if err != nil {
		return nil, err
	}
	device, err := g.newID(id.Device, partition)
	if err != nil {
		return nil, err
	}
	friends := make([][]byte, 0, len(g.cfg.WelcomeFriends))
	for _, f := range g.cfg.WelcomeFriends {
		friends = append(friends, f.Bytes())
	}
	_, unsure, err := g.do(ctx, &nodev1.Command{Kind: &nodev1.Command_SignUp{SignUp: &nodev1.SignUp{
		UserId: user.Bytes(), Login: login, DisplayName: displayName, PasswordHash: hash,
		FriendIds: friends, DeviceId: device.Bytes(), DeviceName: deviceName,
	}}})
	if err != nil && !(unsure && isRefusal(err, codeAlreadyExists) && g.owns(ctx, login, user)) {
		return nil, err
	}
	return g.tokens(user, device, firstGeneration), nil
}

func loginTaken() *refusal {
	r := invalid("login", "login_taken", "this login is taken")
	r.e.Code = codeAlreadyExists
	return r
}

func isRefusal(err error, code string) bool {
	var r *refusal
	return errors.As(err, &r) && r.e.GetCode() == code
}

// owns tells whether the account of a login is user: an attempt of ours with
// an unknown outcome then was the one that made it.
func (g *Gateway) owns(ctx context.Context, login string, user id.ID) bool {
	c, err := g.credential(ctx, login)
	return err == nil && c != nil && string(c.GetUserId()) == string(user[:])
}

// credential looks a login up; nil if there is no such account.
func (g *Gateway) credential(ctx context.Context, login string) (*nodev1.Credential, error) {
	reply, err := g.query(ctx, &nodev1.Query{Kind: &nodev1.Query_Credential{Credential: &nodev1.CredentialQuery{Login: login}}})
	if isRefusal(err, codeNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(reply.GetCredential().GetUserId()) == 0 {
		return nil, nil
	}
	return reply.GetCredential(), nil
}

// wrongCredentials is the one answer to an unknown login and a wrong password.
func wrongCredentials() *refusal {
	return refuse(codeUnauthenticated, "bad_credentials", "unknown login or wrong password")
}

func (g *Gateway) signIn(ctx context.Context, _ caller, r *edgev1.SignInRequest) (*edgev1.Session, error) {
	login, err := login("login", r.GetLogin())
	if err != nil {
		return nil, err
	}
	password, err := triedPassword("password", r.GetPassword())
	if err != nil {
		return nil, err
	}
	deviceName, err := shortText("deviceName", "device name", r.GetDeviceName(), maxDeviceName)
	if err != nil {
		return nil, err
	}
	account, err := g.credential(ctx, login)
	if err != nil {
		return nil, err
	}
	// Someone who does not exist costs the same time as someone who does.
	hash := g.dummyHash
	if account != nil {
		hash = account.GetPasswordHash()
	}
	right := false
	err = g.hashSlot(ctx, login, func() (err error) {
		right, err = auth.VerifyPassword(hash, password)
		return err
	})
	if err != nil {
		return nil, err
	}
	if account == nil || !right {
		return nil, wrongCredentials()
	}
	user, err := id.FromBytes(id.User, account.GetUserId())
	if err != nil {
		return nil, fmt.Errorf("credential of a login: %w", err)
	}
	device, err := g.newID(id.Device, user.Partition())
	if err != nil {
		return nil, err
	}
	_, _, err = g.do(ctx, &nodev1.Command{Kind: &nodev1.Command_AddDevice{AddDevice: &nodev1.AddDevice{
		UserId: user.Bytes(), DeviceId: device.Bytes(), DeviceName: deviceName, PasswordHash: hash,
	}}})
	if err != nil {
		return nil, err
	}
	return g.tokens(user, device, firstGeneration), nil
}

func (g *Gateway) refresh(ctx context.Context, _ caller, r *edgev1.RefreshRequest) (*edgev1.Session, error) {
	if len(r.GetRefreshToken()) > maxTokenChars {
		return nil, refuse(codeUnauthenticated, "refresh_token", "not a refresh token of ours")
	}
	token, err := g.keys.VerifyRefresh(r.GetRefreshToken())
	if err != nil {
		return nil, refuse(codeUnauthenticated, "refresh_token", "not a refresh token of ours")
	}
	reply, _, err := g.do(ctx, &nodev1.Command{Kind: &nodev1.Command_RotateRefresh{RotateRefresh: &nodev1.RotateRefresh{
		UserId: token.User.Bytes(), DeviceId: token.Device.Bytes(), Generation: token.Generation,
	}}})
	if err != nil {
		return nil, err
	}
	if reply.GetRefresh() == nil {
		return nil, errors.New("the backend rotated a refresh token without saying to which generation")
	}
	return g.tokens(token.User, token.Device, reply.GetRefresh().GetGeneration()), nil
}

func (g *Gateway) listDevices(ctx context.Context, who caller, _ *edgev1.ListDevicesRequest) (*edgev1.ListDevicesResponse, error) {
	reply, err := g.query(ctx, &nodev1.Query{Actor: who.user.Bytes(), Kind: &nodev1.Query_Devices{Devices: &nodev1.DevicesQuery{}}})
	if err != nil {
		return nil, err
	}
	out := reply.GetDevices()
	if out == nil {
		out = &edgev1.ListDevicesResponse{}
	}
	current := who.device.String()
	for _, d := range out.GetDevices() {
		d.Current = d.GetDeviceId() == current
	}
	return out, nil
}

func (g *Gateway) revokeDevice(ctx context.Context, who caller, r *edgev1.RevokeDeviceRequest) (*edgev1.RevokeDeviceResponse, error) {
	cmd := &nodev1.RevokeDevice{UserId: who.user.Bytes(), All: r.GetAll()}
	switch {
	case r.GetAll() && r.GetDeviceId() != "":
		return nil, invalid("deviceId", "both", "either all or one device, not both")
	case !r.GetAll():
		device, err := deviceID("deviceId", r.GetDeviceId())
		if err != nil {
			return nil, err
		}
		cmd.DeviceId = device.Bytes()
	}
	reply, _, err := g.do(ctx, &nodev1.Command{Actor: who.user.Bytes(), Kind: &nodev1.Command_RevokeDevice{RevokeDevice: cmd}})
	if err != nil {
		return nil, err
	}
	// The feed will say so too; whoever asked need not wait for it.
	for _, raw := range reply.GetRevoked().GetDeviceIds() {
		if device, err := id.FromBytes(id.Device, raw); err == nil {
			g.revokedDevice(device)
		}
	}
	return &edgev1.RevokeDeviceResponse{}, nil
}

func (g *Gateway) revokedDevice(device id.ID) {
	if !g.revoked.Add(device, g.now()) {
		g.log.Warn("revocation not kept: too many at once", "device", device)
	}
}

func (g *Gateway) getMe(ctx context.Context, who caller, _ *edgev1.GetMeRequest) (*edgev1.GetMeResponse, error) {
	reply, err := g.query(ctx, &nodev1.Query{Actor: who.user.Bytes(), Kind: &nodev1.Query_GetMe{GetMe: &edgev1.GetMeRequest{}}})
	if err != nil {
		return nil, err
	}
	if reply.GetGetMe() == nil {
		return &edgev1.GetMeResponse{}, nil
	}
	return reply.GetGetMe(), nil
}
