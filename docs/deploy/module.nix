# NixOS module: the package on the PATH, the runs directory, and (with `janitor.enable`) the janitor's service and timer.
#
#   imports = [ ./ccci-guard/docs/deploy/module.nix ];
#   services.ccci-guard = { enable = true; zone = "ci.example.net"; protect = [ "demo-*" ]; };
#   services.ccci-guard.janitor.enable = true;   # last: see README.md
{
  config,
  lib,
  pkgs,
  utils,
  ...
}:

let
  cfg = config.services.ccci-guard;
  inherit (lib)
    mkEnableOption
    mkIf
    mkMerge
    mkOption
    optional
    optionals
    types
    ;
in
{
  options.services.ccci-guard = {
    enable = mkEnableOption "ccci-guard, which runs CI harnesses so that nothing stays behind";

    package = mkOption {
      type = types.package;
      default = pkgs.callPackage ./package.nix { };
      defaultText = lib.literalExpression "pkgs.callPackage ./package.nix { }";
      description = "The package that provides `bin/ccci-guard`.";
    };

    zone = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "ci.example.net";
      description = "Run apps are `[a-z0-9]{1,4}-[0-9a-f]{6}.ZONE` (`--zone`).";
    };

    runAppRegex = mkOption {
      type = types.nullOr types.str;
      default = null;
      description = "Run apps are the names that this matches as a whole (`--run-app-re`).";
    };

    protect = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "demo-*" ];
      description = "Globs of names that are never torn down (`--protect`).";
    };

    runsDirectory = mkOption {
      type = types.str;
      default = "/var/lib/cc-ci-runs";
      description = "Where runs keep their results, their state and their own ABRA_DIR.";
    };

    canonicalAbraDirectory = mkOption {
      # No path: that would be copied to the store, with abra's secrets.
      type = types.nullOr types.str;
      default = null;
      example = "/srv/abra";
      description = "The host's own ABRA_DIR; by default `.abra` in root's home, where that has `servers`.";
    };

    janitor = {
      enable = mkEnableOption "rounds of the janitor; only once every harness on this host runs under the lock";

      interval = mkOption {
        type = types.str;
        default = "*:00/15";
        description = "When a round begins: a calendar expression of systemd.time(7).";
      };

      programs = mkOption {
        type = types.listOf types.package;
        default = optional config.virtualisation.docker.enable config.virtualisation.docker.package;
        defaultText = lib.literalMD "the docker package, where Docker is enabled";
        description = "Packages of the docker and abra commands; abra is not in nixpkgs.";
      };

      extraArgs = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [
          "--jobs"
          "8"
          "--single-runner"
        ];
        description = "More options of `ccci-guard janitor`.";
      };
    };
  };

  config = mkIf cfg.enable (mkMerge [
    {
      environment.systemPackages = [ cfg.package ];
      systemd.tmpfiles.rules = [
        "d ${cfg.runsDirectory} 0755 root root -"
        "x /run/lock/cc-ci-app-*.lock"
        "x /tmp/ccci-guard-*"
      ];
    }

    (mkIf cfg.janitor.enable {
      assertions = [
        {
          assertion = cfg.zone != null || cfg.runAppRegex != null;
          message = "services.ccci-guard.janitor: set zone or runAppRegex; there is no default for what may be torn down.";
        }
      ];

      systemd.services.ccci-guard-janitor = {
        description = "Tear down run apps that nobody owns any more";
        after = [
          "docker.service"
          "network-online.target"
        ];
        wants = [ "network-online.target" ];
        # A switch to a new configuration must not stop a round; the next one is of the new one.
        restartIfChanged = false;
        stopIfChanged = false;
        # `/bin/sh` runs a teardown command; git and ssh are abra's.
        path = cfg.janitor.programs ++ [
          pkgs.git
          pkgs.openssh
        ];
        environment = {
          HOME = "/root";
          CCCI_RUNS_DIR = cfg.runsDirectory;
        }
        // lib.optionalAttrs (cfg.canonicalAbraDirectory != null) {
          CCCI_CANONICAL_ABRA_DIR = cfg.canonicalAbraDirectory;
        };

        # The reasons stand in ccci-guard-janitor.service, beside this file.
        serviceConfig = {
          Type = "oneshot";
          ExecStart = utils.escapeSystemdExecArgs (
            [
              (lib.getExe' cfg.package "ccci-guard")
              "janitor"
            ]
            ++ optionals (cfg.zone != null) [
              "--zone"
              cfg.zone
            ]
            ++ optionals (cfg.runAppRegex != null) [
              "--run-app-re"
              cfg.runAppRegex
            ]
            ++ lib.concatMap (glob: [
              "--protect"
              glob
            ]) cfg.protect
            ++ cfg.janitor.extraArgs
          );
          WorkingDirectory = "/";
          UMask = "0077";
          Nice = 5;
          KillMode = "mixed";
          TimeoutStopSec = "11min";
          NoNewPrivileges = true;
          CapabilityBoundingSet = [
            "CAP_DAC_OVERRIDE"
            "CAP_DAC_READ_SEARCH"
            "CAP_FOWNER"
            "CAP_CHOWN"
            "CAP_KILL"
            "CAP_SYS_PTRACE"
          ];
          ProtectSystem = "full";
          ProtectKernelModules = true;
          ProtectKernelTunables = true;
          ProtectKernelLogs = true;
          ProtectControlGroups = true;
          ProtectClock = true;
          ProtectHostname = true;
          PrivateDevices = true;
          RestrictNamespaces = true;
          RestrictRealtime = true;
          RestrictSUIDSGID = true;
          LockPersonality = true;
          RestrictAddressFamilies = [
            "AF_UNIX"
            "AF_INET"
            "AF_INET6"
            "AF_NETLINK"
          ];
          SystemCallArchitectures = "native";
        };
      };

      systemd.timers.ccci-guard-janitor = {
        description = "Rounds of ccci-guard's janitor";
        wantedBy = [ "timers.target" ];
        timerConfig = {
          OnBootSec = "2min";
          OnCalendar = cfg.janitor.interval;
          AccuracySec = "1min";
          RandomizedDelaySec = "30s";
        };
      };
    })
  ]);
}
