# ccci-guard for nixpkgs: pkgs.callPackage ./docs/deploy/package.nix { }
#
# In nixpkgs' usual, dynamic form. For the static one that the README of this directory builds:
# pkgs.pkgsStatic.callPackage ./docs/deploy/package.nix { }
{
  lib,
  stdenv,
  rustPlatform,
  installShellFiles,
}:

let
  root = ../..;
  manifest = lib.importTOML (root + "/Cargo.toml");
in
rustPlatform.buildRustPackage {
  pname = manifest.package.name;
  version = manifest.package.version;

  src = lib.fileset.toSource {
    inherit root;
    fileset = lib.fileset.unions [
      (root + "/Cargo.toml")
      (root + "/Cargo.lock")
      (root + "/src")
      (root + "/tests")
    ];
  };
  cargoLock.lockFile = root + "/Cargo.lock";

  cargoBuildFlags = [
    "--bin"
    "ccci-guard"
  ];
  # The tests start process trees, take locks and need Docker: tests/run does that, a build sandbox can't.
  doCheck = false;

  # The program makes its own man pages and completions; one that is built for another machine can't be asked.
  nativeBuildInputs = [ installShellFiles ];
  postInstall = lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
    "$out/bin/ccci-guard" man --dir man
    installManPage man/*.1
    for shell in bash zsh fish; do
      "$out/bin/ccci-guard" completions "$shell" >"completion.$shell"
      installShellCompletion --cmd ccci-guard "--$shell" "completion.$shell"
    done
  '';

  meta = {
    description = manifest.package.description;
    license = with lib.licenses; [
      mit
      asl20
    ];
    mainProgram = "ccci-guard";
    platforms = lib.platforms.linux;
  };
}
